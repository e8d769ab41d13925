class HTTPError(Exception):
    code: int
    message: str
    def __init__(self, code: int, msg: str) -> None: ...
