"""Small helpers: files and folders, locks, write errors, printing, and checks of settings."""
