"""Local web app: look at runs in a browser while they are written. It only reads."""
