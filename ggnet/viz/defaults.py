"""What is drawn, unless said otherwise; apart from the drawing, so that a command line can say it
without importing that."""

# A score is a product of three; on the bundled dataset F1 peaks at about this one after a short
# training.
THRESHOLD, TOP = 0.07, 10  # lowest score drawn; most triplets in a picture
