"""One run, from checked settings to a result: images, videos and cameras."""
