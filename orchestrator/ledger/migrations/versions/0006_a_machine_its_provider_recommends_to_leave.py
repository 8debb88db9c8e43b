"""a machine knows since when its provider recommends to leave it"""

import sqlalchemy as sa
from alembic import op

from orchestrator.ledger.tables import Moment

revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('instances', sa.Column('rebalance_at', Moment()))


def downgrade() -> None:
    op.drop_column('instances', 'rebalance_at')
