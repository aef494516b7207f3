"""Cases: data model, file formats, images, and selection."""
