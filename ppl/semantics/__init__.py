"""The language and its meaning: programs as jaxprs with `sample` and `factor`, one interpreter, exact measures."""
