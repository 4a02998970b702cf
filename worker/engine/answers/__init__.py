"""What a model says when it is asked: several answers at once, each by an adapter of its own."""

# Before PEFT, which would load bitsandbytes with its compiler.
import worker.engine.model.uncompiled  # noqa: F401
