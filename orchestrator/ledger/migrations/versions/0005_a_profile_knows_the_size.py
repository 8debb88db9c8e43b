"""a profile knows the size of the images it was measured on"""

import sqlalchemy as sa
from alembic import op

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('profiles', sa.Column('size', sa.String(length=16), server_default=sa.text("''"), nullable=False))


def downgrade() -> None:
    op.drop_column('profiles', 'size')
