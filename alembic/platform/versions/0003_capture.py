# SPDX-License-Identifier: Apache-2.0
"""The functions that capture what a box writes while this PostgreSQL serves it."""

from alembic import op

revision = "0003"
down_revision = "0005"
branch_labels = None
depends_on = None

CAPTURE = """
CREATE OR REPLACE FUNCTION edgepaas_capture() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog SET timezone = 'UTC' SET datestyle = 'ISO, YMD'
SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
DECLARE
  place integer := coalesce(nullif(current_setting('edgepaas.rows', true), ''), '0')::integer;
  held text := coalesce(current_setting('edgepaas.rows_' || place, true), '');
  names json;
  after json;
  before json;
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    RAISE EXCEPTION 'TRUNCATE of % cannot be captured for the journal: use DELETE', TG_TABLE_NAME
      USING ERRCODE = '2F003';
  END IF;
  IF TG_OP <> 'DELETE' THEN
    SELECT json_agg(t::text) INTO after FROM edgepaas_new AS t;
    IF after IS NULL THEN RETURN NULL; END IF;
    SELECT json_agg(k) INTO names
      FROM json_object_keys((SELECT row_to_json(t) FROM edgepaas_new AS t LIMIT 1)) AS k;
  END IF;
  IF TG_OP <> 'INSERT' THEN
    SELECT json_agg(t::text) INTO before FROM edgepaas_old AS t;
    IF before IS NULL THEN RETURN NULL; END IF;
    SELECT json_agg(k) INTO names
      FROM json_object_keys((SELECT row_to_json(t) FROM edgepaas_old AS t LIMIT 1)) AS k;
  END IF;
  IF octet_length(held) > 32768 THEN
    place := place + 1;
    held := '';
    PERFORM set_config('edgepaas.rows', place::text, true);
  END IF;
  PERFORM set_config('edgepaas.rows_' || place,
    held || ',' || json_build_array(TG_TABLE_NAME, names, after, before)::text, true);
  RETURN NULL;
END $$"""

CAPTURED = """
CREATE OR REPLACE FUNCTION edgepaas_captured(forwarded oid[]) RETURNS text LANGUAGE plpgsql
AS $$
DECLARE
  lacking text;
BEGIN
  SELECT string_agg(coalesce(c.relname::text, 'a table that is gone'), ', ') INTO lacking
    FROM unnest(forwarded) AS t LEFT JOIN pg_catalog.pg_class AS c ON c.oid = t
    WHERE 4 > (SELECT count(*) FROM pg_catalog.pg_trigger AS g WHERE g.tgrelid = t
      AND g.tgenabled IN ('O', 'A') AND g.tgfoid = to_regproc('edgepaas_capture'));
  IF lacking IS NOT NULL THEN
    RAISE EXCEPTION 'changes are not captured for the journal: %', lacking USING ERRCODE = '55P03';
  END IF;
  RETURN (SELECT string_agg(current_setting('edgepaas.rows_' || n, true), '' ORDER BY n)
    FROM generate_series(0, coalesce(nullif(current_setting('edgepaas.rows', true), ''),
      '0')::integer) AS n);
END $$"""


def upgrade() -> None:
    """Make the functions; the triggers of the forwarded tables come with the tables."""
    for statement in (CAPTURE, CAPTURED):
        op.execute(statement)


def downgrade() -> None:
    """Drop the functions, and with them every trigger that calls them."""
    op.execute("DROP FUNCTION edgepaas_captured(oid[])")
    op.execute("DROP FUNCTION edgepaas_capture() CASCADE")
