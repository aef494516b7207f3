"""HTML page of items: image, question, each model's reply, the known answer, the verdict."""
