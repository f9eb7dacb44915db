"""A station beside the line: cameras and triggers in, answers out, for months. Knows nothing of its page.

A part's way, to be read in this order: a trigger comes to ``PartTracker.trigger`` and asks ``Capture`` for a frame, which
waits in ``FrameQueue``. ``InspectionThread`` takes frames of its cameras in turn (``StationCamera.next_frame``), inspects
them in batches (``SupervisedBackend``, ``Inspector``) and hands each result back (``StationCamera.take_result``).
``PartTracker.inspected`` answers the part. ``Recorder`` stores inspection and answer, then ``Station`` gives the answer to
the outputs: ``Handshake`` shows it to the PLC.
"""
