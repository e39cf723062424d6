// `rackseed serve`: the daemon in the foreground, until SIGTERM or SIGINT; SIGHUP reads the profiles again.
import { once } from 'node:events';
import { readSettings } from '../config/settings.ts';
import { startDaemon, type Daemon } from '../daemon.ts';
import { createLog } from '../log.ts';
import { comeForward } from '../threads/nice.ts';

export async function serve(options: { readonly config?: string }): Promise<void> {
  // While we may: the daemon becomes an ordinary user.
  comeForward();
  const settings = readSettings(options.config);
  const log = createLog(settings.logLevel);
  // A SIGHUP while it starts has nothing to tell: the profiles are being read right now. Unhandled it would end the process.
  let daemon: Daemon | undefined;
  process.on('SIGHUP', () => {
    if (settings.reload === 'manual') return log.warn({ reload: settings.reload }, 'SIGHUP is not taken, because rackseed.yaml says reload: manual; to read the profiles again: rackseed reload (POST /api/reload)');
    void daemon?.reload('SIGHUP').catch(() => undefined);
  });
  daemon = await startDaemon(settings, log);
  const [signal] = (await Promise.race([once(process, 'SIGTERM'), once(process, 'SIGINT')])) as [string];
  log.info({ signal }, 'rackseed stops');
  await daemon.stop();
}
