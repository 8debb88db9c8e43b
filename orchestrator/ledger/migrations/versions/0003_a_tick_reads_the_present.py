"""a tick reads the present: indexes by which it takes no longer, however long the history"""

import sqlalchemy as sa
from alembic import op

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None

#: name, table, columns, rows
PARTIAL = (
    ('ix_instances_alive', 'instances', ['deployment', 'intent_id'], "status NOT IN ('ended', 'failed', 'preempted')"),
    ('ix_instances_started', 'instances', ['deployment', 'intent_id'], 'ready_at IS NOT NULL'),
    ('ix_charges_running', 'charges', ['deployment'], 'ended_at IS NULL AND amount_micros IS NULL'),
    ('ix_charges_closed', 'charges', ['deployment', 'ended_at'], 'ended_at IS NOT NULL'),
    ('ix_charges_corrections', 'charges', ['deployment', 'started_at'], 'amount_micros IS NOT NULL'),
)


def upgrade() -> None:
    op.create_index(op.f('ix_ticks_deployment_id'), 'ticks', ['deployment', 'id'])
    op.create_index(op.f('ix_loads_deployment_at'), 'loads', ['deployment', 'at'])
    for name, table, columns, rows in PARTIAL:
        op.create_index(name, table, columns, sqlite_where=sa.text(rows), postgresql_where=sa.text(rows))


def downgrade() -> None:
    for name, table, _, _ in reversed(PARTIAL):
        op.drop_index(name, table)
    op.drop_index(op.f('ix_loads_deployment_at'), 'loads')
    op.drop_index(op.f('ix_ticks_deployment_id'), 'ticks')
