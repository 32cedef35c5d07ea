"""Making data: class folders, drawn demo data, encoding."""
