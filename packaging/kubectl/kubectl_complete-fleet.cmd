@rem kubectl asks this for what may follow "kubectl fleet ...".
@kubectl-fleet.exe __complete %*
