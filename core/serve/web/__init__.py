"""The server's routes: all that imports FastAPI and the other packages of the extra ``serve``."""
