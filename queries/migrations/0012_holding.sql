-- Router: what waits or is dead holds back its resource, so both are asked by resource in every cycle.
CREATE INDEX router_waiting_by_resource ON router_waiting (resource, tenant_id);
CREATE INDEX router_dead_letters_by_resource ON router_dead_letters (resource, tenant_id);
