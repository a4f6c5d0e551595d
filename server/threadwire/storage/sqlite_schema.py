"""Our own tables, as they have come to be; LangGraph makes those of its saver and its store."""

from __future__ import annotations

#: In order; ``PRAGMA user_version`` counts those a file has had. Never changed, only added to.
MIGRATIONS = (
    """
    CREATE TABLE threads (
        thread_id TEXT NOT NULL PRIMARY KEY,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        status TEXT NOT NULL,
        metadata TEXT NOT NULL,
        interrupts TEXT NOT NULL
    );
    CREATE TABLE runs (
        accepted INTEGER PRIMARY KEY,
        run_id TEXT NOT NULL UNIQUE,
        thread_id TEXT NOT NULL REFERENCES threads (thread_id) ON DELETE CASCADE,
        trigger TEXT NOT NULL,
        message_id TEXT,
        request TEXT NOT NULL,
        on_disconnect TEXT NOT NULL,
        created_at REAL NOT NULL,
        status TEXT NOT NULL,
        reason TEXT,
        error TEXT,
        usage TEXT,
        started_at REAL,
        ended_at REAL
    );
    CREATE INDEX runs_of_thread ON runs (thread_id, accepted);
    CREATE UNIQUE INDEX runs_of_message ON runs (thread_id, message_id) WHERE message_id IS NOT NULL;
    CREATE INDEX runs_unfinished ON runs (accepted) WHERE status IN ('queued', 'running');
    CREATE TABLE probe (filler BLOB)
    """,
    """
    CREATE TABLE texts (
        thread_id TEXT NOT NULL REFERENCES threads (thread_id) ON DELETE CASCADE,
        folded TEXT NOT NULL
    );
    CREATE INDEX texts_of_thread ON texts (thread_id);
    CREATE INDEX threads_by_creation ON threads (created_at, thread_id);
    CREATE INDEX threads_by_update ON threads (updated_at, thread_id)
    """,
    """
    ALTER TABLE runs ADD COLUMN turn TEXT;
    ALTER TABLE runs ADD COLUMN base TEXT;
    CREATE TABLE turns (
        thread_id TEXT NOT NULL REFERENCES threads (thread_id) ON DELETE CASCADE,
        message_id TEXT NOT NULL,
        base TEXT,
        PRIMARY KEY (thread_id, message_id)
    ) WITHOUT ROWID;
    CREATE TABLE logs (
        thread_id TEXT NOT NULL PRIMARY KEY REFERENCES threads (thread_id) ON DELETE CASCADE,
        epoch TEXT NOT NULL,
        floor INTEGER NOT NULL,
        last INTEGER NOT NULL,
        reserved INTEGER NOT NULL,
        touched_at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE frames (
        thread_id TEXT NOT NULL REFERENCES logs (thread_id) ON DELETE CASCADE,
        last INTEGER NOT NULL,
        data BLOB NOT NULL,
        origins BLOB NOT NULL,
        PRIMARY KEY (thread_id, last)
    )
    """,
    "ALTER TABLE texts ADD COLUMN message_id TEXT",
    """
    ALTER TABLE threads ADD COLUMN owner TEXT NOT NULL DEFAULT '';
    DROP INDEX threads_by_creation;
    DROP INDEX threads_by_update;
    CREATE INDEX threads_by_creation ON threads (owner, created_at, thread_id);
    CREATE INDEX threads_by_update ON threads (owner, updated_at, thread_id);
    CREATE TABLE tokens (
        token_id TEXT NOT NULL PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        salt BLOB NOT NULL,
        hash BLOB NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL
    );
    CREATE TABLE secrets (name TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL)
    """,
    # What users have spent is counted where a run's end is written, whoever writes it, and outlives its thread.
    """
    CREATE TABLE spending (
        day INTEGER NOT NULL,
        user TEXT NOT NULL,
        tokens INTEGER NOT NULL,
        PRIMARY KEY (day, user)
    ) WITHOUT ROWID;
    CREATE TRIGGER runs_spend AFTER UPDATE OF ended_at ON runs
    WHEN OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL AND json_extract(NEW.usage, '$.total_tokens') > 0
    BEGIN
        INSERT INTO spending VALUES (
            CAST(NEW.ended_at / 86400 AS INTEGER),
            coalesce(json_extract(NEW.request, '$.user.identity'), ''),
            json_extract(NEW.usage, '$.total_tokens')
        ) ON CONFLICT (day, user) DO UPDATE SET tokens = tokens + excluded.tokens;
        DELETE FROM spending WHERE day < CAST(NEW.ended_at / 86400 AS INTEGER) - 7;
    END
    """,
)
