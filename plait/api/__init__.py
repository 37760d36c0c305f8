"""What `import plait` gives; plait/__init__.py and plait/aio.py say what of it is public."""
