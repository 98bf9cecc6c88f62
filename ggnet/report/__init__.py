"""One HTML page of an evaluation or a dataset: figures, curves, a table of HOIs and every image.

`contents` turns records and predictions into plain values, `pictures` makes the image files, `page`
joins both with the files of the folder `page/` and writes the result; `make` does all of it for a
run, a prediction file or a dataset.
"""
