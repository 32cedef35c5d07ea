"""Lists of image URLs that people bring: which files, which rows, which columns, and what their cells mean."""
