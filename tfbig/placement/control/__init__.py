"""The control channel: how the tasks of a cluster connect, agree and detect a lost task."""
