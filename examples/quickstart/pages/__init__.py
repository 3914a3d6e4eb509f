"""What the quickstart's local site serves: pages made from installed packages, and pages written for it."""
