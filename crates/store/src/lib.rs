//! How it is kept: SQLite opened right, migrations, the writer thread and its group commit.
