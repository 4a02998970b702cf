"""What comes of a training: the folder that users download, its card, and other formats."""
