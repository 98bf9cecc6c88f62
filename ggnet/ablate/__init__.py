"""The paper's tables: their rows as settings, and the study that runs them with several seeds."""
