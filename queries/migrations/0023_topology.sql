-- Operators change the shard count with `tollway migrate shards`, under the workers' role, which sees every tenant's rows.
GRANT UPDATE ON topology TO tollway_worker;
