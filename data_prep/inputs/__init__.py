"""What users bring: class lists, class folders, split files."""
