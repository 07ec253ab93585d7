"""The method's maths: pure functions of tensors, divided by counts that the caller reduced."""
