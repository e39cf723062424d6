// The log: pino with a fixed message and variable fields; one line per stage at info.
import { pino, symbols, type DestinationStream, type Logger } from 'pino';

export type Log = Logger;

/** To stdout as JSON lines, or to `destination`. Strings from machines only ever appear as field values. */
export function createLog(level: string, destination?: DestinationStream): Log {
  const options = { level, base: null, timestamp: () => `,"time":"${new Date().toISOString()}"` };
  return destination ? pino(options, destination) : pino(options);
}

/** Takes whole lines, as the log of another thread made them, into the place where this log's own lines go: one writer, one order. */
export function lineWriter(log: Log): (line: string) => void {
  const stream = (log as unknown as Readonly<Record<symbol, DestinationStream>>)[symbols.streamSym]!;
  return (line) => stream.write(line);
}
