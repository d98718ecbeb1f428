"""Images and videos in tar archives: few large files in place of many small ones."""
