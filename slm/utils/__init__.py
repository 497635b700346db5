"""Small helpers without a subject of their own: files, and the validation of settings."""
