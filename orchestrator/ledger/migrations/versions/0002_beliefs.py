"""beliefs: what a policy has learned of a market, kept between ticks, restarts and jobs"""

import sqlalchemy as sa
from alembic import op

from orchestrator.ledger.tables import Moment

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        'beliefs',
        sa.Column('deployment', sa.String(length=40), nullable=False),
        sa.Column('policy', sa.String(length=20), nullable=False),
        sa.Column('memory', sa.JSON(), nullable=False),
        sa.Column('updated_at', Moment(), nullable=False),
        sa.PrimaryKeyConstraint('deployment', 'policy', name=op.f('pk_beliefs')),
    )


def downgrade() -> None:
    op.drop_table('beliefs')
