"""What a model says when it is asked: several answers at once, each by an adapter of its own."""

# Before PEFT, which would load bitsandbytes with its compiler.
from worker.engine.model import uncompiled as uncompiled
