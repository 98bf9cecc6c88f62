"""What `import ggnet` offers: a trained network as a function from images to triplets."""
