"""Compiled loops over the UTF-8 buffers of Arrow arrays. They know no Ray, no policy and no file."""
