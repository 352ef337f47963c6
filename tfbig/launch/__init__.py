"""Starting a cluster's tasks and watching over them."""
