"""Along which path does the answer travel? Path patching and edges, exact; see README.md."""
