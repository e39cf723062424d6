// The schema's migrations: plain SQL files, numbered, forward only, all of them or none.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type BetterSqlite3 from 'better-sqlite3';
import { AppError, lineOf } from '../errors.ts';

/** The same place from src/store/ and dist/store/. */
const MIGRATIONS = fileURLToPath(new URL('../../migrations/', import.meta.url));

export interface Migration {
  readonly version: number;
  readonly name: string;
  readonly sql: string;
}

/** `NNNN-what.sql`, numbered from 1 without a gap. */
export function readMigrations(dir: string = MIGRATIONS): Migration[] {
  const names = readdirSync(dir).filter((name) => name.endsWith('.sql')).sort();
  return names.map((name, index) => {
    const version = Number(/^(\d{4})-[a-z0-9-]+\.sql$/.exec(name)?.[1]);
    if (version !== index + 1) throw new AppError('BUG', `${join(dir, name)}: migration ${index + 1} was expected here, named NNNN-what.sql`);
    return { version, name, sql: readFileSync(join(dir, name), 'utf8') };
  });
}

export function migrate(sqlite: BetterSqlite3.Database, file: string, migrations: readonly Migration[]): void {
  // Immediate: of two processes that start at once, the second waits and then sees the work done. Any throw undoes all of it.
  const run = sqlite.transaction(() => {
    const current = Number(sqlite.pragma('user_version', { simple: true }));
    if (current > migrations.length) {
      throw new AppError(
        'STORE_UNUSABLE',
        `${file}: the database is at schema ${current}, this rackseed knows up to ${migrations.length}`,
        'run the newer rackseed that wrote it, or restore the backup from before the upgrade',
      );
    }
    for (const { version, name, sql } of migrations.slice(current)) {
      try {
        sqlite.exec(sql);
      } catch (error) {
        throw new AppError('STORE_UNUSABLE', `${file}: migration ${name} failed: ${lineOf(error)}`, 'nothing was changed; run the rackseed version that wrote the database, and report this one', error);
      }
      sqlite.pragma(`user_version = ${version}`);
    }
  });
  run.immediate();
}
