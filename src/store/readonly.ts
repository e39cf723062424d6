// A look into the database of a daemon, older or younger than us, without changing anything in it.
import BetterSqlite3 from 'better-sqlite3';
import { AppError, lineOf } from '../errors.ts';
import type { Database } from './db.ts';
import { watchSpace } from './reserve.ts';

/** Opens without migrating; STORE_UNUSABLE when there is no database or it cannot be read. Writes are refused. */
export function openReadOnly(file: string): Database {
  try {
    const sqlite = new BetterSqlite3(file, { readonly: true, fileMustExist: true, timeout: 5000 });
    const space = watchSpace(file, () => 0);
    return {
      file,
      prepare: (sql) => sqlite.prepare(sql),
      read: (operation) => operation(sqlite),
      write: () => Promise.reject(new AppError('BUG', `${file} was opened for reading only`)),
      spare: space.spare,
      isTight: space.isTight,
      refill: () => undefined,
      close: async () => void sqlite.close(),
    };
  } catch (error) {
    throw new AppError('STORE_UNUSABLE', `${file}: ${lineOf(error)}`, undefined, error);
  }
}
