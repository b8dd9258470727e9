"""What an extractor or the decoder raises when a clip cannot give what was asked of it."""


class Reject(Exception):
    """The clip cannot give this. `reason` is a class that is counted, the message is for a person.

    what: the thing that could not be had: `media`, `sound`, `face` or a constituent; everything that needs it is left
    out for this clip, and the clip is quarantined under it.
    """

    def __init__(self, what: str, reason: str, message: str):
        super().__init__(message)
        self.what, self.reason, self.message = what, reason, message

    def __reduce__(self):
        return type(self), (self.what, self.reason, self.message)
