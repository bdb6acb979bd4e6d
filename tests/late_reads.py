"""Reads that come late, as on a GPU, without one: the host's steps are the same."""

import torch


class _NoEvent:
    """Of a GPU that is never behind."""

    def record(self, stream):
        pass

    def synchronize(self):
        pass


def pretend(monkeypatch):
    """What `gradlab.checks` needs of torch.cuda."""
    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "Event", _NoEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory=False, **given: empty(*shape, **given))
