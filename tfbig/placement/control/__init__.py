"""How the tasks of a cluster find each other and agree."""
