"""Side by side with hand-written JAX and peers, in one process. Not part of the test run."""
