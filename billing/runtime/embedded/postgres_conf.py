"""Every path's ground: what the embedded PostgreSQL is told, and why.

Invariant: only 127.0.0.1 is listened on and every connection proves the password; unless
`durable=False`, a commit that was answered is on disk.
"""

from __future__ import annotations

from billing.runtime.embedded.settings import EmbeddedSettings

HBA = (
    "# Written at each start. There is no other way in.\nhost all all 127.0.0.1/32 scram-sha-256\n"
)

_CONF = """\
# Written by tollway at each start; `ALTER SYSTEM` is kept, and wins over what stands here.
hba_file = '{hba}'
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''      # its path would have to be short and its folder open to clients
max_connections = {connections_max}
password_encryption = 'scram-sha-256'
timezone = 'UTC'
log_timezone = 'UTC'
{durability}
# Memory and plans, for a small machine that also runs the house itself.
shared_buffers = '{shared_buffers_mb}MB'
work_mem = '8MB'
maintenance_work_mem = '64MB'
random_page_cost = 1.1            # solid-state disks
io_workers = 2
jit = off                         # statements here are short; compiling costs more than it saves
max_parallel_workers_per_gather = 0  # both cores have work already, and plans stay the same
max_locks_per_transaction = 256   # partitions by day and by tenant: one statement may lock them all
track_io_timing = on

# Fewer and spread checkpoints: each one makes the next change of every page log the whole page.
wal_compression = on
max_wal_size = '{wal_mb_max}MB'
checkpoint_timeout = '15min'
checkpoint_completion_target = 0.9

# The queues (outbox, deliveries, waiting) replace their whole content in seconds: each claim walks
# over dead rows until vacuum has taken them. So look every few seconds, start early whatever the
# size of the table, and let vacuum run at the disk's speed; one small table keeps one worker busy
# for milliseconds. Analyze is left at a tenth: a queue's statistics are wrong at any moment anyway.
autovacuum_naptime = '5s'
autovacuum_max_workers = 2
autovacuum_vacuum_threshold = 500
autovacuum_vacuum_scale_factor = 0.02
autovacuum_vacuum_insert_scale_factor = 0.1
autovacuum_vacuum_cost_delay = 0

# To standard error, into postgres.log, whose length the owner limits. No values of statements: they
# may be customers' data.
logging_collector = off
log_checkpoints = off
log_lock_waits = on
log_min_duration_statement = '2s'
log_parameter_max_length = 0
log_parameter_max_length_on_error = 0
log_line_prefix = '%m [%p] %q%u@%d '
cluster_name = 'tollway'
"""

_DURABLE = """\
fsync = on
synchronous_commit = on
full_page_writes = on
"""

_FAST_AND_LOOSE = """\
# For tests: a power cut may spoil everything.
fsync = off
synchronous_commit = off
full_page_writes = off
"""


def postgres_conf(settings: EmbeddedSettings, port: int, *, hba: str) -> str:
    """The text of postgresql.conf for these settings."""
    return _CONF.format(
        hba=_quoted(hba),
        port=port,
        connections_max=settings.connections_max,
        shared_buffers_mb=settings.shared_buffers_mb,
        wal_mb_max=settings.wal_mb_max,
        durability=_DURABLE if settings.durable else _FAST_AND_LOOSE,
    )


def _quoted(path: str) -> str:
    """A path inside single quotes of the configuration file."""
    return path.replace("\\", "\\\\").replace("'", "''")
