// Every store on SQLite, by the suites that any engine must pass.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createArtifactStore } from '../../src/store/artifacts.ts';
import { createBootStore } from '../../src/store/boots.ts';
import { openDatabase } from '../../src/store/db.ts';
import { createEventStore } from '../../src/store/events.ts';
import { createLeaseStore } from '../../src/store/leases.ts';
import { createNodeStore } from '../../src/store/nodes.ts';
import { createVerdictStore } from '../../src/store/verdicts.ts';
import { artifactStoreSuite, bootStoreSuite, eventStoreSuite, leaseStoreSuite, nodeStoreSuite, verdictStoreSuite, type OpenStores, type Stores } from './store-conformance.ts';

function openIn(dir: string): Stores {
  const db = openDatabase(join(dir, 'rackseed.db'));
  return {
    leases: createLeaseStore(db),
    boots: createBootStore(db),
    nodes: createNodeStore(db),
    artifacts: createArtifactStore(db),
    events: createEventStore(db),
    verdicts: createVerdictStore(db),
    async reopen() {
      await db.close();
      return openIn(dir);
    },
    async close() {
      await db.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

const open: OpenStores = async () => openIn(mkdtempSync(join(tmpdir(), 'rackseed-store-')));

leaseStoreSuite(open);
bootStoreSuite(open);
nodeStoreSuite(open);
artifactStoreSuite(open);
eventStoreSuite(open);
verdictStoreSuite(open);
