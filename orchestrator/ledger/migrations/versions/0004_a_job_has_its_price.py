"""a job has its price: what it has cost so far, and what it may cost"""

import sqlalchemy as sa
from alembic import op

from orchestrator.ledger.tables import Moment

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('jobs', sa.Column('currency', sa.String(length=3), nullable=False, server_default=sa.text("''")))
    op.add_column('jobs', sa.Column('cost_micros', sa.BigInteger(), nullable=False, server_default='0'))
    op.add_column('jobs', sa.Column('unpriced', sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column('jobs', sa.Column('costed_at', Moment()))
    op.add_column('jobs', sa.Column('budget_micros', sa.BigInteger()))


def downgrade() -> None:
    for name in ('budget_micros', 'costed_at', 'unpriced', 'cost_micros', 'currency'):
        op.drop_column('jobs', name)
