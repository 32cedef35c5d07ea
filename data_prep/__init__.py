"""Making data: discover auxiliary categories, crawl and filter their images, encode all of it."""
