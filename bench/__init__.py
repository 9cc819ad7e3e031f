"""What is claimed about speed and quality, as commands; README.md has the figures."""
