"""The verbs of the `ggnet` command, one file each: its summary, its options, what it does.

A command is a module with `SUMMARY`, `add_arguments(parser)` and `run(args)`, which returns an exit
status or None for success; it raises UserError for what the user can put right. Modules import at
their top only what is quick; `run` imports the rest. `COMMANDS` gives the order of the help.
"""

# An underscore at the end is for Python's own words; in a command's name others are hyphens.
COMMANDS = (
    "demo",
    "train",
    "eval",
    "report",
    "ablate",
    "compare",
    "predict",
    "export",
    "import_",
    "data",
    "env",
    "completion",
)
