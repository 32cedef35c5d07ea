"""Images whose captions name a category, out of data sets of captioned URLs: `fastlt crawl --captions`."""
