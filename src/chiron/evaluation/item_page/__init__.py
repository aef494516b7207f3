"""A page that shows items: image, question, what each model said, the known answer, the verdict."""
