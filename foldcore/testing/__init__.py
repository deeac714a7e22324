"""Public test tools: what authors of plugins test their own classes with."""
