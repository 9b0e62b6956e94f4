// Makes a replica set of the three servers and waits until one of them is its primary. Run again it changes nothing.
const members = ['mongo-1:27017', 'mongo-2:27017', 'mongo-3:27017'];
const NOT_YET_INITIALIZED = 94;
const PATIENCE_S = 60;

try {
    rs.status();
} catch (error) {
    if (error.code !== NOT_YET_INITIALIZED) throw error;
    rs.initiate({ _id: 'rs0', members: members.map((host, _id) => ({ _id, host })) });
}
for (let waited = 0; !rs.status().members.some(member => member.stateStr === 'PRIMARY'); waited++) {
    if (waited === PATIENCE_S) throw new Error('no primary after a minute');
    sleep(1000);
}
