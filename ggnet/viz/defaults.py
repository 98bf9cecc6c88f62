"""What is drawn, unless said otherwise; apart from the drawing, so that a command line can say it
without importing that."""

# A score is a product of three. This is for a network that was never evaluated; others have a
# threshold of their own, where F1 is best.
THRESHOLD, TOP = 0.07, 10  # lowest score drawn; most triplets in a picture
LISTED = 8  # from so many triplets on, they are listed below the picture
